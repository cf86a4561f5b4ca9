"""The manager, pool role: orders, tenants, devices, allocations, signed grants and leases."""
