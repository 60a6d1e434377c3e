from cifar_cli.start import main

main()
