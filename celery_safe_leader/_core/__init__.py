"""The election as a pure state machine: no IO, no clock, no threads, no randomness, no logging.

Everything that decides who leads lives in this package. Shells (a thread, an asyncio task, a
simulator) give it the time and Redis's replies, and execute the requests that it returns.
"""
