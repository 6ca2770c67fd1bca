"""How money comes in: vouchers now, card payments behind the same door later."""
