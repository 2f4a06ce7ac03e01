"""The fault harness: real work under damage, and the rules of the design held against what is left."""
