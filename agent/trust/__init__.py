"""Who vouches for a template or a job: minisign signatures, checked. docs/trust.md is the text.

Checking returns a value that whoever goes on needs; there is no check that can be forgotten.
"""
