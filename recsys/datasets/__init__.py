"""Public data sets: prepared once into one plain format, replayed as events, audited by request id.

::

    raw.py  ml100k.py  ml_latest_small.py   what the owners publish, read into three tables
    timeline.py                             ratings become impressions and likes at distinct times
    prepare.py                              DATASETS; find or download, check, write the folder
    prepared.py                             the folder itself: manifest, paths, intactness
    replay.py                               the folder as (topic, event) in event-time order
    audit.py                                examples lost or duplicated, counted without the pipeline
"""
