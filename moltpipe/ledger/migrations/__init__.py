"""The history of the tables: one revision per change, forward only. Read by Alembic, started by `ledger.migrate`."""
