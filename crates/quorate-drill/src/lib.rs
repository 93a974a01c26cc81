//! quorate-drill
