"""Plain examples: a row each in CSV or Parquet files, without events.

::

    reading.py     CSV and Parquet as record batches, larger than memory
    columns.py     a column of raw values becomes a feature's ids or numbers; what that needs is learned from train
    sets.py        the data sets that have a name, as parts to read: train, valid, test
    prepare.py     two passes over the parts: learn the columns, write them encoded
    prepared.py    the folder that this leaves
    batches.py     its files as shuffled batches, from any row on
"""
