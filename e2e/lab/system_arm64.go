package lab

const nixSystem = "aarch64-linux"
