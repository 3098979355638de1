"""From events to batches: join impressions with their late labels, then hand out batches in event-time order.

``join`` is the joiner of one partition, a pure function of (state, event); ``joined`` runs joiners over a source;
``examples`` is the Arrow form of what they emit; ``merge`` cuts batches; ``batch`` is what a model takes.
"""
