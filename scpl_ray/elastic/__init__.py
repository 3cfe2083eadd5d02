"""Stages that join and leave while the job runs: what is planned, decided, asked for and done."""
