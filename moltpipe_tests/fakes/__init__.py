"""Fake providers: real HTTP servers on loopback that speak the providers' protocols and count what they bill."""
