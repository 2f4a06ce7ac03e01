"""What generates: screenwriters, voices, cameras and composers behind four small protocols.

HTTP stands only here. Not here: claims, limits, retries and money (`production.calls`).
"""
