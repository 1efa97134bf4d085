"""Serve models over HTTP: one process, dynamic batches, bounded queues. Torch is imported only for networks in memory.

    resnext serve RUN_OR_EXPORT          # commands/serve.py

``server`` owns the process, ``app`` the routes, ``service`` the models, ``batcher`` the queue before each engine.
"""
