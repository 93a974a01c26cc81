//! quorate-plan
