"""Models of sessions: what will this user play next, of what they know and of what they do not?"""
