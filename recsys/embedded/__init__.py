"""A real Kafka and a real Redis as child processes of a job; they die with it, however it dies.

- ``guard.py``: the small process between the job and a server, which outlives the job long enough to stop it
- ``process.py``: start under a guard, wait until ready, stop; ports; one server per folder
- ``kafka_install.py``: where Java and Kafka's jars come from
- ``kafka.py``, ``redis.py``: the servers
"""
