//! quorate-lb
