"""The user-item graph of a data set, and ways to put its ids into buckets.

::

    bipartite.py     edges between users and items
    barber.py        modularity of clusters of both, and what moving one node gains
    louvain.py       clusters that make it large, as many as are asked for
    assignments.py   buckets by id, by hash, by count and by likeness: what clusters are compared with
    online.py        ids that come later; rows carried into a new clustering
"""
