"""The catalog of training methods: one file each (see training/method.py for the contract)."""
