"""Row stores: named groups of float rows found by int64 keys, updated by an optimizer of their own.

``store`` holds the interface, ``local`` the implementation in this process; the parameter server's client
(``recsys.ps``) and Redis (``recsys.serving``) implement the same interface.
"""
