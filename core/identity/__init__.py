"""Who is asking: users, passwords, invitations, sessions."""
