"""The manager's database: tables, migrations, transactions and named queries."""
