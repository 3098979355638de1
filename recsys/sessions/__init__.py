"""Who played what, when, cut into sessions.

::

    plays.py       play logs from Parquet, delimited text or a stream, as columns
    log.py         SessionLog: sessions of distinct tracks in time order, split by user
    sessioniser.py plays become sessions: gap, lengths, who and what has enough, the split
    planted.py     logs made by a user of known memory: decay, weights and repeat share are planted

A "track" is whatever is played again: a song, a place, a film.
"""
