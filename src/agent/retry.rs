//! When a call that a limit has denied may try again, in the two ways that gRPC has: `grpc-retry-pushback-ms`, which clients with
//! a retry policy follow (gRFC A6), and a google.rpc.RetryInfo among the status's details, which libraries show.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use prost::Message;

/// google/rpc/status.proto
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// google/rpc/error_details.proto
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// The trailers that say it.
pub fn trailers(status: u32, message: &str, after_ms: u32) -> [(&'static str, String); 2] {
    let after = std::time::Duration::from_millis(after_ms.into());
    let info = RetryInfo { retry_delay: prost_types::Duration::try_from(after).ok() };
    let detail = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: info.encode_to_vec(),
    };
    let status = Status { code: status, message: message.to_owned(), details: vec![detail] };
    [
        ("grpc-retry-pushback-ms", after_ms.to_string()),
        ("grpc-status-details-bin", STANDARD_NO_PAD.encode(status.encode_to_vec())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_say_when() {
        let [(_, pushback), (_, details)] = trailers(8, "slow down", 1500);
        assert_eq!(pushback, "1500");
        let bytes = STANDARD_NO_PAD.decode(details).unwrap();
        let status = Status::decode(bytes.as_slice()).unwrap();
        assert_eq!((status.code, status.message.as_str(), status.details.len()), (8, "slow down", 1));
        let delay = RetryInfo::decode(status.details[0].value.as_slice()).unwrap().retry_delay.unwrap();
        assert_eq!((delay.seconds, delay.nanos), (1, 500_000_000));
    }
}
