"""The one validator: tables of fields that check values, explain what is wrong, and describe themselves."""
