//! The device for training, chosen at run time.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};

use crate::error::{Result, TrainError};

/// Device of tensors and gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Burn's Flex backend.
    #[default]
    Cpu,
    /// A GPU through Vulkan; needs a build with the feature `vulkan`.
    Gpu,
}

impl DeviceChoice {
    /// The Burn device, without gradients.
    ///
    /// # Errors
    /// [`TrainError::NoGpuSupport`] if a GPU is requested and the build lacks the feature `vulkan`.
    pub fn device(self) -> Result<Device> {
        match self {
            DeviceChoice::Cpu => Ok(Device::flex()),
            #[cfg(feature = "vulkan")]
            DeviceChoice::Gpu => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(not(feature = "vulkan"))]
            DeviceChoice::Gpu => Err(TrainError::NoGpuSupport),
        }
    }
}

/// The values of `tensor`, row-major, without its gradients.
///
/// # Panics
/// If the values cannot be read back from the device as f32.
pub(crate) fn host<const R: usize>(tensor: Tensor<R>) -> Vec<f32> {
    tensor.without_autodiff().try_into_vec_as().expect("the device gives tensors up as f32")
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Gpu => "gpu",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = TrainError;

    /// Reads "cpu" or "gpu".
    ///
    /// # Errors
    /// [`TrainError::UnknownDevice`] for anything else.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(DeviceChoice::Cpu),
            "gpu" => Ok(DeviceChoice::Gpu),
            other => Err(TrainError::UnknownDevice(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_strangers_refused() {
        assert_eq!("cpu".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cpu);
        assert_eq!("gpu".parse::<DeviceChoice>().unwrap(), DeviceChoice::Gpu);
        let error = "tpu".parse::<DeviceChoice>().unwrap_err().to_string();
        assert_eq!(error, "unknown device 'tpu'; use 'cpu' or 'gpu'");
    }

    #[test]
    #[cfg(not(feature = "vulkan"))]
    fn a_build_without_gpu_says_how_to_get_one() {
        let error = DeviceChoice::Gpu.device().unwrap_err().to_string();
        assert!(error.contains("--features vulkan"), "{error}");
    }
}
