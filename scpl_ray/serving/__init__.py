"""A finished run behind HTTP: its stages as deployments of Ray Serve, a front that checks requests.

Order in which a request travels: guard (who may, how much), app and inputs (what was asked, pixels
and tokens), stages (Ray Serve: batches; only the unsure samples go on), schema (what comes back).
"""
