"""The record in Postgres: schema, migrations and transactions.

SQL stands only here. One function is one transaction: it takes an open connection from
`Database.begin()` and either all of its rows are written or none.
"""
