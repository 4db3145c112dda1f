//! Events as engines encode them, as nobody should, and in the worst of orders.

mod decode;
mod encode;
mod frame;
mod golden;
mod hostile;
mod stream;
mod world;

use super::*;
