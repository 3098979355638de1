"""Sources and sinks of events behind one small interface: memory, Parquet files and Kafka.

Read in this order: ``source``, ``sink``, ``partitioner``, ``memory``, ``parquet``, ``kafka``,
``event_batches``, ``replay``, ``dead_letters``. Nothing is imported here, so that reading files needs no Kafka client.
"""
