"""Values only: settings, logging and the root of all errors. Imports nothing of Flow."""
