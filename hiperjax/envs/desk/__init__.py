"""A support desk of a shop for computer parts: records, tools, requests, criteria by program."""
