//! Frames on a byte stream: a length (u32, big endian) and that many bytes of JSON. A frame that is too long ends the stream, since
//! nobody can say where the next one would begin; one that is not what was expected does not.

use std::io;

use quorate_plan::wire::FRAME_BYTES_MAX;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream broke, or ended within a frame.
    #[error("the channel broke within a frame")]
    Broken(#[source] io::Error),
    /// The length is beyond the limit.
    #[error("a frame of {0} bytes: at most {FRAME_BYTES_MAX} are accepted")]
    TooLong(u32),
}

/// The next frame; `None` when the stream ended between two.
///
/// # Errors
/// See [`FrameError`].
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; 4];
    let first = from.read(&mut length).await.map_err(FrameError::Broken)?;
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[first..])
        .await
        .map_err(FrameError::Broken)?;
    let length = u32::from_be_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    // Read as it comes: a length alone does not make us set memory aside.
    let mut bytes = Vec::new();
    let read = from
        .take(u64::from(length))
        .read_to_end(&mut bytes)
        .await
        .map_err(FrameError::Broken)?;
    if read < length as usize {
        return Err(FrameError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(Some(bytes))
}

/// Writes one frame.
///
/// # Errors
/// When the stream does not take it, or the value is longer than a frame may be.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    let json = serde_json::to_vec(value).map_err(io::Error::other)?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)
        .ok_or_else(|| io::Error::other(format!("a frame of {} bytes is too long", json.len())))?;
    let mut bytes = Vec::with_capacity(4 + json.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&json);
    to.write_all(&bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_and_back() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"one").await.unwrap();
        write(&mut bytes, &"two").await.unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).await.unwrap().unwrap(), b"\"one\"");
        assert_eq!(read(&mut from).await.unwrap().unwrap(), b"\"two\"");
        assert!(read(&mut from).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn too_long_and_cut_short() {
        let long = (FRAME_BYTES_MAX + 1).to_be_bytes();
        assert!(matches!(
            read(&mut long.as_slice()).await,
            Err(FrameError::TooLong(_))
        ));
        for cut in [&b"\0\0"[..], b"\0\0\0\x05abc"] {
            let mut from = cut;
            assert!(
                matches!(read(&mut from).await, Err(FrameError::Broken(_))),
                "{cut:?}"
            );
        }
        let mut bytes = Vec::new();
        let huge = "x".repeat(FRAME_BYTES_MAX as usize);
        assert!(write(&mut bytes, &huge).await.is_err());
        assert!(bytes.is_empty(), "nothing of it was sent");
    }
}
