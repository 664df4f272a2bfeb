package lab

const nixSystem = "x86_64-linux"
