"""What makes a copied system boot from another layout: its tables, its initramfs, its boot code."""
