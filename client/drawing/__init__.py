"""Pages for people: one file of HTML with pictures as SVG, no script, nothing fetched.

A department's own report, a simulation's and a benchmark's are drawn alike.
"""
