"""Certificates, and the checker that verifies them with numpy alone."""
