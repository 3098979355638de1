"""Point-in-time features: what was known of the user and the item when the item was shown.

``declarations`` names the features, ``state`` keeps users' histories and facts, ``extract`` turns them into values.
The joiner and the ranker both call ``extract``, so training and serving can not drift apart.
"""
