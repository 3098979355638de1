"""Recommenders with compressed embedding tables: trained online over Kafka, on CPU, served from Redis."""

__version__ = "0.1.0"
