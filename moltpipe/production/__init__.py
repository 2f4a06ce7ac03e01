"""What each stage of the line does with one episode, without Dagster.

Between the asset bodies (`defs`), which only load and report, and the tools they need: engines,
media, ledger and store. The command line and the tests call the same functions.
"""
