"""The secure sum: the one channel through which anything learned leaves a department.

codec         real numbers ↔ ring elements whose sum cannot wrap
masks         keystreams, and adding many of them in one pass
shares        Shamir's sharing over GF(2^8); ``recovery`` names who lied about theirs
chains        pairwise keys, ratcheted forward each round
edges         what both ends derive alike
memory        what a department remembers over a crash
department    one department's protocol machine
coordinator   the coordinator's, for one round
"""
