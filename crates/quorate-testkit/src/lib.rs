//! quorate-testkit
