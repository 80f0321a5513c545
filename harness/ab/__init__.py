"""crispbench ab: is engine B slower than engine A? Fresh processes in pairs, turns in time. Imports nothing."""
