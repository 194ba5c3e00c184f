"""The secure sum: the one channel through which anything learned leaves a department.

codec         real numbers ↔ ring elements whose sum cannot wrap
lanes         how levels lie in words of 16, 32 or 64 bits, and where everything lies in an upload
rounding      unbiased stochastic rounding in few passes
masks         keystreams, and adding many of them in one pass
pieces        one hash of an upload, for its signature and for the link
precompute    masks and shares made while training runs, good for one upload
shares        Shamir's sharing over GF(2^8); ``recovery`` names who lied about theirs
chains        pairwise keys, ratcheted forward each round
edges         what both ends derive alike
memory        what a department remembers over a crash
department    one department's protocol machine
coordinator   the coordinator's, for one round
"""
