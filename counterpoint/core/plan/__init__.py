"""The result of a check as plain, frozen data, its explanation and its fingerprint."""
