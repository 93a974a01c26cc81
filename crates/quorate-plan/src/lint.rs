//! A second opinion on plans, sharing no code with the planner.
