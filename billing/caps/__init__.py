"""What may still be spent: budgets, credit and limits, as gateways meet them, and the alerts on the way."""
