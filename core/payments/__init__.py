"""How money comes in: vouchers, bank transfers and cards behind one door."""
