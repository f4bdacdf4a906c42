"""Every aggregate of a workspace under Dagster: assets, checks, jobs, sensors.

One folder per topic, each with the same files: ``assets``, ``checks``, ``jobs``, ``sensors``. What
they do is in the capabilities; here it is only named, ordered, scheduled and shown.
"""
