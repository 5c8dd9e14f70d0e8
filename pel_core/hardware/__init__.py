"""Devices, GPU slots, leases and process groups: what runs where, and who holds it.

Start with `devices`. Nothing here knows what is computed.
"""
