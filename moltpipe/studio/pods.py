"""What each stage asks of a cluster where every run is a pod of its own.

Here: the sizes, and what they were taken from. Not here: the tags made of them (`defs.sizing`), which stages a run has
and so how large its pod is (`runtime.run_pods`), what a pod has beside them (`deploy/kubernetes`).

Memory: Dagster's process holds 193 MiB when the definitions are loaded (measured), and some more at work. To that comes
what docs/performance.md measured at 720p30: 487 MiB while two clips are conformed, 169 MiB for a stitch, 106 MiB for
the gate. Frames of 1080p hold 2.25 times as many pixels. A limit is twice the request: what exceeds it is killed, and
the episode comes back as an attempt.

Cores: conforming keeps 1.9 of two busy, stitching 1.3 to 1.5. All others wait for a provider or the database, after two
to four seconds of CPU in which Python imports Dagster: with a limit below two cores that would delay the first call.

Scratch, not measured: the clips of a pilot (four variants of a minute) as they arrived and as conformed, at 16 Mbit/s
120 MiB a minute each, with room for results far larger than asked for (`MAX_RESULT_BYTES` is 2 GiB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Resources = Mapping[str, Mapping[str, str]]
"""`requests` and `limits` as Kubernetes has them."""


@dataclass(frozen=True)
class PodSize:
    """What is set aside for a pod, and what it may use. CPU in thousandths of a core, the others in MiB."""

    cpu: int
    cpu_limit: int
    memory: int
    memory_limit: int
    scratch: int
    scratch_limit: int

    def resources(self) -> dict[str, dict[str, str]]:
        """The `resources` of a container.

        Source: https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
        """
        return {
            "requests": _quantities(self.cpu, self.memory, self.scratch),
            "limits": _quantities(self.cpu_limit, self.memory_limit, self.scratch_limit),
        }


def _quantities(cpu: int, memory: int, scratch: int) -> dict[str, str]:
    return {"cpu": f"{cpu}m", "memory": f"{memory}Mi", "ephemeral-storage": f"{scratch}Mi"}


_SMALL = PodSize(cpu=500, cpu_limit=2000, memory=512, memory_limit=1024, scratch=256, scratch_limit=1024)
_SPEAKING = PodSize(cpu=500, cpu_limit=2000, memory=768, memory_limit=1536, scratch=512, scratch_limit=2048)
_FILMING = PodSize(cpu=2000, cpu_limit=2000, memory=1536, memory_limit=3072, scratch=4096, scratch_limit=12288)
_CUTTING = PodSize(cpu=1500, cpu_limit=2000, memory=1024, memory_limit=2048, scratch=4096, scratch_limit=12288)

SIZES: Mapping[str, PodSize] = {
    "voting_outcome": _SMALL,
    "episode_script": _SMALL,
    "voiceover": _SPEAKING,
    "clips": _FILMING,
    "stitched_episode": _CUTTING,
    "checks": _SMALL,
    "retention": _SMALL,
}
"""By asset, for the checks of integrity, and for a prune."""
