module rollbackctl.invalid/lab/shop

go 1.24.0
