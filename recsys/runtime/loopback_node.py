"""``ray start`` for a node that speaks on loopback alone: ``python -m recsys.runtime.loopback_node start --head …``.

Ray's own takes ``--node-ip-address=127.0.0.1`` for the machine's address, and listens on all interfaces.
"""

from ray.scripts import scripts

from recsys.runtime.cluster import stay_on_loopback

if __name__ == "__main__":
    stay_on_loopback()
    # Ray starts its client's server, on one port for all, wherever that could run; jobs here join as Ray's own drivers.
    scripts.get_ray_client_dependency_error = lambda: ImportError("not wanted")
    scripts.main()
