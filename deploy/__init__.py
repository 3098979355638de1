"""What a cluster is made of: an image, compose and Kubernetes manifests, dashboards; and all of it on one machine.

``python -m deploy.local_cluster`` (``make cluster``) starts the same servers as processes on loopback.
"""
